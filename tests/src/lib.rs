//! Whole clusters, for tests.
