//! Code written by hand, code made at random, and code that kernels run.

mod code;
mod interpreter;
mod loading;
mod property;
mod suite;
