//! Places where a test can make a node die, fail or wait; `docs/contracts.md` lists them.
//!
//! Without the feature `failpoints` they are nothing at all. With it the crate `fail` decides at run time what happens at
//! each, by its name (`raftBeforeSave`: in every node of the process) or by its name and a node's id in hexadecimal
//! (`raftBeforeSave@1f`: in that node alone), in a test or through the environment variable `FAILPOINTS`:
//!
//! - `return` makes the operation at hand fail, where there is one that can;
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

/// Does what the point was told to do, and says whether the operation is to fail.
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

/// What an operation that is made to fail says.
#[cfg(feature = "failpoints")]
pub(crate) fn injected() -> std::io::Error {
    std::io::Error::other("injected by a failpoint")
}
