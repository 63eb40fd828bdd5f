//! Opening a log that is there.

use super::{Noise, Work, fill, speed};
use crate::Error;
use crate::limit::Records;
use crate::peers::{Oarlock, Who};
use crate::report::{Bound, Row, Unit};
use crate::turns::{Turn, summary, take_turns, timed};

const LEN: usize = 1 << 10;
const BYTES: usize = 1 << 30;
const BATCH: usize = 16;
const VERIFIED: &str = "oarlock-wal verified";

pub(super) const OPEN: Work = Work {
    name: "open",
    title: "Open a log of 1 KiB entries, warm",
    notes: "1 GiB of payload in batches of 16 (an eighth of it in a quick run). Closing is not timed. The floor maps as \
            many bytes and runs crc32fast over them, record by record, on one thread. oarlock-wal takes footers for the \
            segments that it left and checks payloads when they are read; verified, it checks every byte while it \
            opens. okaywal reads and checks too, the others do not look at every payload.",
    run: |setting, report| {
        let noise = Noise::new();
        let n = setting.args.scaled(BYTES / LEN);
        let file = setting.dir.join("records");
        Records::create(&file, noise.bytes(), LEN, n)?;
        let mut contenders: Vec<Turn<'_, Error>> = vec![Box::new(|samples| {
            samples.push(timed(|| {
                let records = Records::open(&file, LEN)?;
                Ok::<_, Error>(records.check_range(0, records.len()))
            })?);
            Ok(())
        })];
        let logs = || Who::ALL.iter().copied().filter(|who| !matches!(who, Who::Floor));
        for who in logs() {
            let dir = setting.dir.join(who.name());
            fill(&mut *who.create_to_read(&dir)?, &noise, LEN, n, BATCH)?;
            contenders.push(Box::new(move |samples| {
                samples.push(timed(|| who.open(&dir))?);
                Ok(())
            }));
        }
        let ours = setting.dir.join(Who::Oarlock.name());
        contenders.push(Box::new(move |samples| {
            samples.push(timed(|| Oarlock::verify(&ours))?);
            Ok(())
        }));
        let samples = take_turns(&mut contenders, setting.args.longer(30))?;

        let case = format!("{} MiB", (n * LEN) >> 20);
        let mut row = Row::new(OPEN.name, case, Unit::Milliseconds);
        let names = std::iter::once(Who::Floor).chain(logs()).map(Who::name);
        for (name, samples) in names.chain([VERIFIED]).zip(&samples) {
            row.cell(name, summary(samples));
        }
        let ours = row.p50(Who::Oarlock.name());
        row.check("milliseconds", ours / 1e6, Bound::AtMost(20.0));
        let share = 1.0 / speed(&row, Who::RaftEngine);
        row.check("time over raft-engine's", share, Bound::AtMost(0.1));
        let verified = row.p50(Who::Floor.name()) / row.p50(VERIFIED);
        row.check("every byte verified: speed over the floor's", verified, Bound::AtLeast(0.65));
        report.rows.push(row);
        Ok(())
    },
};
