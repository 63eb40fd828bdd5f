//! Clients that write all the time, and remember what they were told.

use crate::ledger::{Acked, Register};
use crate::{Client, Cluster, Failure, Ledger, Outcome, eventually};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// The threads that write in one round, spread over the members; they end when this is dropped.
#[derive(Debug)]
pub struct Writers {
    threads: Vec<thread::JoinHandle<Seen>>,
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
}

/// What one writer saw in one round.
#[derive(Debug, Default)]
struct Seen {
    acked: Vec<(String, Acked)>,
    count: u64,
    unknown: u64,
    register: Register,
}

impl Writers {
    /// Starts `count` of them. Each gives up on a request after `patience`, and goes on with the next.
    #[must_use]
    pub fn start(
        cluster: &Cluster,
        count: usize,
        round: u32,
        patience: Duration,
        rng: &mut fastrand::Rng,
    ) -> Self {
        let (stop, acked): (Arc<AtomicBool>, Arc<AtomicU64>) = Default::default();
        let threads = (0..count).map(|number| {
            let member = &cluster.members[number % cluster.members.len()];
            let url = member.flags.client_url();
            let tag = format!("{:08x}-{round}", rng.u32(..));
            let (stop, acked) = (Arc::clone(&stop), Arc::clone(&acked));
            thread::spawn(move || match Client::new(&url, patience) {
                Ok(client) => write(&client, &tag, round, number, &stop, &acked),
                Err(_) => Seen::default(),
            })
        });
        Self { threads: threads.collect(), stop, acked }
    }

    /// What the keys of a round begin with that are written once.
    #[must_use]
    pub fn prefix(round: u32) -> String {
        format!("r{round:05}/")
    }

    /// Tells them to stop; they are in the midst of their last requests then.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits until `more` writes have been acknowledged.
    ///
    /// # Errors
    /// If they are not within `bound`.
    pub fn wait_for(&self, more: u64, bound: Duration) -> Outcome {
        let before = self.acked.load(Ordering::Relaxed);
        let done = || (self.acked.load(Ordering::Relaxed) >= before + more).then_some(());
        eventually(&format!("{more} acknowledged writes"), bound, done)
    }

    /// Ends them and books what they saw: how many writes were acknowledged, how many not answered.
    ///
    /// # Errors
    /// If one panicked.
    pub fn collect(mut self, ledger: &mut Ledger) -> Outcome<(u64, u64)> {
        self.stop();
        let (mut acked, mut unknown) = (0, 0);
        for (number, thread) in self.threads.drain(..).enumerate() {
            let seen = thread.join().map_err(|_| Failure::new("a writer panicked"))?;
            acked += seen.count;
            unknown += seen.unknown;
            for (key, write) in seen.acked {
                ledger.once(key, write);
            }
            ledger.over(register_key(number), seen.register);
        }
        Ok((acked, unknown))
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Writes through one member until told to stop: four new keys, then the writer's own key once more, and so on.
fn write(
    client: &Client,
    tag: &str,
    round: u32,
    number: usize,
    stop: &AtomicBool,
    acked: &AtomicU64,
) -> Seen {
    let mut seen = Seen::default();
    let prefix = Writers::prefix(round);
    let mut turn = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        turn += 1;
        let over = turn.is_multiple_of(5);
        let key =
            if over { register_key(number) } else { format!("{prefix}{number:02}/{turn:06}") };
        let value = format!("{tag}-{number}-{turn}");
        match client.put(&key, &value) {
            Ok(revision) => {
                seen.count += 1;
                acked.fetch_add(1, Ordering::Relaxed);
                let write = Acked { value, revision };
                if over {
                    seen.register.acked = Some(write);
                } else {
                    seen.acked.push((key, write));
                }
            }
            Err(_) => {
                seen.unknown += 1;
                if over {
                    seen.register.unknown.push(value);
                }
                thread::sleep(Duration::from_millis(5)); // it is down: no need to ask ten thousand times
            }
        }
    }
    seen
}

fn register_key(writer: usize) -> String {
    format!("{OVER}{writer:02}")
}

/// What the keys begin with that are written over and over.
pub(crate) const OVER: &str = "over/";
