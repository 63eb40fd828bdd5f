//! Suites that any implementation of this crate's traits can run against itself.
