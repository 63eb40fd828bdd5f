//! A closed log with one bit flipped or one sector zeroed is refused, with file and offset. Never fewer keys.

use crate::util::{SOON, segments};
use oarlock_tests::{Cluster, Outcome, scenario};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the frames of a segment begin: after the three blocks of the header and the mark slots.
const FRAMES: usize = 12288;

const SECTOR: usize = 512;

/// A member with forty keys, stopped cleanly, and its first segment with the end of what was written.
fn closed_log(scratch: &oarlock_tests::Scratch) -> Outcome<(Cluster, PathBuf, Vec<u8>, usize)> {
    let mut cluster = Cluster::start(scratch, 1)?;
    let client = cluster.client(0)?;
    for number in 0..40 {
        client.put(&format!("key/{number:02}"), &format!("value {number}"))?;
    }
    let process = cluster.members[0].process()?;
    process.terminate()?;
    assert_eq!(process.wait(SOON)?.code(), Some(0));
    cluster.members[0].kill(); // forget the process
    let segment = segments(&cluster.members[0].flags.data_dir)?.remove(0);
    let bytes = fs::read(&segment)?;
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    assert!(end > FRAMES + 40 * 16, "forty entries are in it, up to {end}");
    Ok((cluster, segment, bytes, end))
}

/// Starts the member on the damaged segment: it must refuse, say where, and leave the file alone.
fn must_refuse(cluster: &mut Cluster, segment: &Path, damaged: &[u8], what: &str) -> Outcome {
    fs::write(segment, damaged)?;
    let code = cluster.members[0].spawn()?.wait(SOON)?.code();
    let log = cluster.members[0].log_text();
    let last = log.lines().last().unwrap_or_default();
    assert_eq!(code, Some(65), "{what}: {last}");
    let json: serde_json::Value = serde_json::from_str(last)?;
    let name = segment.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    assert!(
        json["file"].as_str().is_some_and(|file| file.ends_with(name)),
        "{what}: {last} names {name}"
    );
    assert!(json["offset"].is_u64(), "{what}: {last}");
    assert_eq!(fs::read(segment)?, damaged, "{what}: a refused log is not written to");
    Ok(())
}

#[test]
fn one_flipped_bit_is_refused_with_file_and_offset() {
    scenario("bit-flip", |scratch| {
        let (mut cluster, segment, bytes, end) = closed_log(scratch)?;
        let seed = fastrand::u64(..);
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..16 {
            let (at, bit) = (rng.usize(FRAMES..end), rng.u8(0..8));
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            must_refuse(
                &mut cluster,
                &segment,
                &damaged,
                &format!("seed {seed}: bit {bit} of byte {at}"),
            )?;
        }
        // Whole again, it is served with every key.
        fs::write(&segment, &bytes)?;
        cluster.members[0].start()?;
        assert_eq!(cluster.client(0)?.count("key/")?, 40);
        Ok(())
    });
}

#[test]
fn one_zeroed_sector_is_refused_with_file_and_offset() {
    scenario("zeroed-sector", |scratch| {
        let (mut cluster, segment, bytes, end) = closed_log(scratch)?;
        for start in (FRAMES..end).step_by(SECTOR) {
            let mut damaged = bytes.clone();
            let sector = &mut damaged[start..(start + SECTOR).min(bytes.len())];
            if sector.iter().all(|byte| *byte == 0) {
                continue; // padding between frames: nothing would change
            }
            sector.fill(0);
            must_refuse(&mut cluster, &segment, &damaged, &format!("sector at {start}"))?;
        }
        Ok(())
    });
}
