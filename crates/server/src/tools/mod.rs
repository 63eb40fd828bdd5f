//! What `oarlock` does instead of serving.

mod rescue;
mod wal;

pub(crate) use rescue::{rescue, show_plan};
pub(crate) use wal::{dump, repair, verify};
