//! Points at which a test can kill, fail or delay a node; `docs/contracts.md` lists them.
//!
//! Without the feature `failpoints` they compile to nothing. With it the crate `fail` decides at run time what happens at
//! each, configured by a test or by the environment variable `FAILPOINTS`. The name of a point (`raftBeforeSave`) stands
//! for all nodes of the process, with a node's id in hexadecimal (`raftBeforeSave@1f`) for that node alone.
//!
//! - `return` makes the operation fail, where it can;
//! - `return(abort)` aborts the process;
//! - `sleep(250)` and a callback do what they say.

/// A named place in the node of this id. A third argument is what an injected failure returns.
macro_rules! fail_point {
    ($name:literal, $id:expr) => {
        #[cfg(feature = "failpoints")]
        let _ = $crate::failpoint::reached($name, $id);
        #[cfg(not(feature = "failpoints"))]
        let _ = $id;
    };
    ($name:literal, $id:expr, $failure:expr) => {
        #[cfg(feature = "failpoints")]
        if $crate::failpoint::reached($name, $id) {
            return $failure;
        }
        #[cfg(not(feature = "failpoints"))]
        let _ = $id;
    };
}
pub(crate) use fail_point;

/// Does what is configured for the point, and returns whether the operation has to fail.
#[cfg(feature = "failpoints")]
pub(crate) fn reached(name: &str, id: u64) -> bool {
    let evaluate = |name: &str| -> Option<Option<String>> {
        fail::fail_point!(name, Some);
        None
    };
    let told = evaluate(name).or_else(|| evaluate(&format!("{name}@{id:x}")));
    if told.as_ref().is_some_and(|what| what.as_deref() == Some("abort")) {
        std::process::abort();
    }
    told.is_some()
}

/// The error of an operation that is made to fail.
#[cfg(feature = "failpoints")]
pub(crate) fn injected() -> std::io::Error {
    std::io::Error::other("injected by a failpoint")
}
