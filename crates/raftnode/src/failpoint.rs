//! Places where a test can make a node stop, fail or wait.

/// A named place, inside of this crate. Without the feature `failpoints` it is nothing at all; with it, the crate
/// `fail` decides at run time what happens there. A second argument is a closure that turns an injected value into the
/// function's early result.
macro_rules! fail_point {
    ($name:expr) => {
        #[cfg(feature = "failpoints")]
        fail::fail_point!($name);
    };
    ($name:expr, $result:expr) => {
        #[cfg(feature = "failpoints")]
        fail::fail_point!($name, $result);
    };
}
pub(crate) use fail_point;
