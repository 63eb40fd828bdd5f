//! What a command prints.

#[derive(Default)]
pub(super) struct Trace {
    pub(super) lines: Vec<String>,
    /// Messages, writes and applied entries too.
    pub(super) detail: bool,
    /// Changes of role are left out: a compound command says how it ended.
    pub(super) mute_roles: bool,
}

impl Trace {
    pub(super) fn say(&mut self, id: u64, what: impl AsRef<str>) {
        self.lines.push(format!("{id}: {}", what.as_ref()));
    }

    pub(super) fn role(&mut self, id: u64, what: impl AsRef<str>) {
        if self.detail || !self.mute_roles {
            self.say(id, what);
        }
    }

    pub(super) fn detail(&mut self, id: u64, what: impl FnOnce() -> String) {
        if self.detail {
            self.say(id, what());
        }
    }
}
