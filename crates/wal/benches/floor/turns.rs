//! Measuring: contenders take turns, so that all of them meet the same noise.

use std::time::{Duration, Instant};

/// What a contender does when it is its turn: a few operations, and a sample for each.
pub type Turn<'a, E> = Box<dyn FnMut(&mut Vec<f64>) -> Result<(), E> + 'a>;

/// Rounds that are always taken, however slow they are.
const MIN_ROUNDS: usize = 5;

/// Pieces of a run; a disturbance that lasts for one of them does not move the median of their medians.
const BLOCKS: usize = 9;

/// How long a run goes on.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    pub time: Duration,
    pub rounds: usize,
}

/// What the samples of one contender say, in the samples' own unit.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// The median of the medians of blocks.
    pub p50: f64,
    /// The figure least touched by noise.
    pub p10: f64,
    pub p99: f64,
    pub samples: usize,
}

/// Lets everybody take turns until the budget is used up. The first round warms up and does not count; of the others
/// every second one goes backwards, so that nobody always follows the same one.
pub fn take_turns<E>(contenders: &mut [Turn<'_, E>], budget: Budget) -> Result<Vec<Vec<f64>>, E> {
    let n = contenders.len();
    let mut samples = vec![Vec::new(); n];
    let begun = Instant::now();
    for round in 0..=budget.rounds.max(MIN_ROUNDS) {
        for turn in 0..n {
            let turn = if round % 2 == 0 { turn } else { n - 1 - turn };
            let who = (round / 2 + turn) % n;
            contenders[who](&mut samples[who])?;
        }
        if round == 0 {
            samples.iter_mut().for_each(Vec::clear);
        } else if round >= MIN_ROUNDS && begun.elapsed() > budget.time {
            break;
        }
    }
    Ok(samples)
}

/// Runs `operation` and says how many nanoseconds it took.
pub fn timed<T, E>(operation: impl FnOnce() -> Result<T, E>) -> Result<f64, E> {
    let begun = Instant::now();
    let done = std::hint::black_box(operation()?);
    let took = begun.elapsed().as_nanos() as f64;
    drop(done);
    Ok(took)
}

/// Sums samples up, in the order in which they were taken.
pub fn summary(samples: &[f64]) -> Summary {
    let block = samples.len().div_ceil(BLOCKS).max(1);
    let medians: Vec<f64> = samples.chunks(block).map(|block| quantile(block, 0.5)).collect();
    Summary {
        p50: quantile(&medians, 0.5),
        p10: quantile(samples, 0.1),
        p99: quantile(samples, 0.99),
        samples: samples.len(),
    }
}

fn quantile(samples: &[f64], q: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len().saturating_sub(1) as f64 * q).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}
