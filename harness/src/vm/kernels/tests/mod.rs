//! The cache against a signed mirror of a few packages, made for each test: apt, dpkg-deb and depmod are the real ones.

mod keeping;
mod repository;
mod trouble;
