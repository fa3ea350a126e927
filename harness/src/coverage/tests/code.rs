//! Code written by hand.
