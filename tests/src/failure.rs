//! One error for the harness: a sentence for whoever reads the test's output.

use std::fmt;

/// Why a step of a test could not be taken.
pub struct Failure(String);

/// What a step of a test gives.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure with this to say.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The same as `Display`, so that `expect` shows lines as lines.
impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Any error will do; deliberately not `Error` itself, which would forbid this.
impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        Self(text)
    }
}
