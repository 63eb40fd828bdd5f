//! Whatever takes proposals and answers each when it is applied, and the callers of it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use oarlock_bench_harness::Result;
use oarlock_bench_harness::data::Noise;

/// Takes proposals.
pub(crate) trait Service {
    /// The answer to come.
    type Answer;

    /// Hands a proposal over; does not wait.
    fn propose(&self, data: Bytes) -> Self::Answer;

    /// Returns once it is applied.
    fn wait(answer: Self::Answer) -> Result<()>;
}

/// One thread that keeps `in_flight` proposals of `len` bytes under way until `n` are answered.
#[derive(Clone, Copy)]
pub(crate) struct Caller<'a> {
    pub(crate) noise: &'a Noise,
    pub(crate) len: usize,
    pub(crate) in_flight: usize,
}

impl Caller<'_> {
    /// Nanoseconds for a proposal, on the average of all.
    pub(crate) fn run<S: Service>(&self, service: &S, n: usize) -> Result<f64> {
        let begun = Instant::now();
        let mut under_way = VecDeque::with_capacity(self.in_flight);
        for index in 0..n as u64 {
            if under_way.len() == self.in_flight
                && let Some(oldest) = under_way.pop_front()
            {
                S::wait(oldest)?;
            }
            under_way.push_back(service.propose(self.noise.payload(index, self.len)));
        }
        under_way.into_iter().try_for_each(S::wait)?;
        Ok(begun.elapsed().as_nanos() as f64 / n as f64)
    }

    /// The same on every one of several services at once, a thread each, until the time is up; nanoseconds for a
    /// proposal, of all together.
    pub(crate) fn run_for<S: Service + Sync>(
        &self,
        services: &[&S],
        time: Duration,
    ) -> Result<f64> {
        let begun = Instant::now();
        let answered = AtomicU64::new(0);
        let one = |service: &S| -> Result<()> {
            let mut under_way = VecDeque::with_capacity(self.in_flight);
            while begun.elapsed() < time {
                if under_way.len() == self.in_flight
                    && let Some(oldest) = under_way.pop_front()
                {
                    S::wait(oldest)?;
                    if begun.elapsed() < time {
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                }
                under_way.push_back(service.propose(self.noise.payload(0, self.len)));
            }
            under_way.into_iter().try_for_each(S::wait)
        };
        let one = &one;
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                services.iter().map(|service| scope.spawn(move || one(service))).collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().map_err(|_| "a caller panicked")?)
        })?;
        Ok(time.as_nanos() as f64 / answered.into_inner().max(1) as f64)
    }
}
