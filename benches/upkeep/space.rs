//! Write amplification and disk use in a steady run of overwrites.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use steadfast::bench::{Population, Shape, Workload, WriteKind, load, run};

use crate::Outcome;
use crate::node::{Node, disk_use};

const GLANCE: Duration = Duration::from_millis(200);

/// Bytes that the process has sent to the disk.
fn written(pid: u32) -> Outcome<u64> {
    let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).ok_or("no write_bytes")?;
    Ok(line.parse()?)
}

/// Disk use, by part, at its highest and at the end.
#[derive(Clone, Copy, Debug, Default)]
struct Space {
    highest: u64,
    journal: u64,
    snapshots: u64,
    store: u64,
}

impl Space {
    fn look(&mut self, node: &Node) {
        let part = |name: &str| disk_use(&node.path().join(name));
        (self.journal, self.snapshots, self.store) = (part("journal"), part("snapshots"), part("store"));
        self.highest = self.highest.max(self.journal + self.snapshots + self.store);
    }
}

/// Overwrites at full speed for `duration`; snapshots are taken when they are due.
pub fn steady(population: &Population, duration: Duration, quick: bool) -> Outcome<()> {
    // With little data, snapshots are due sooner: the shape of a long run, not its length.
    let settings: &[(&str, &str)] = if quick {
        &[("JOURNAL_SEGMENT", "1 MiB"), ("SNAPSHOTS_JOURNAL_BYTES", "8 MiB")]
    } else {
        &[("JOURNAL_TOTAL_QUOTA", "8 GiB"), ("JOURNAL_SITE_QUOTA", "6 GiB")]
    };
    let node = Node::start(settings)?;
    load::load(&node.addr, population, 4)?;
    let before = written(node.pid())?;
    let enough = AtomicBool::new(false);
    let (report, space) = thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut space = Space::default();
            while !enough.load(Ordering::Relaxed) {
                space.look(&node);
                thread::sleep(GLANCE);
            }
            space
        });
        let workload =
            Workload { changes: 8, ..Workload::new(population.clone(), Shape::Identify, WriteKind::Change) };
        let report =
            run(&node.addr, &Arc::new(workload), &crate::plan(duration.as_secs_f64()), Some(node.pid()));
        enough.store(true, Ordering::Relaxed);
        (report, watcher.join())
    });
    let (report, space) = (report?, space.map_err(|_| "the watcher panicked")?);
    let data = (population.users * population.profile_bytes as u64) as f64;
    let requests = report.items_per_second * report.seconds * population.profile_bytes as f64;
    let sent = (written(node.pid())? - before) as f64;
    let status = node.status()?;
    let snapshots = status.snapshot.is_some_and(|snapshot| snapshot.last_position > 0);
    println!(
        "{:.2} GB of overwrites in {:.0} s on {:.2} GB of data: {:.2} bytes written for each byte of them{}",
        requests / 1e9,
        report.seconds,
        data / 1e9,
        sent / requests,
        if snapshots { "" } else { " (no snapshot was due)" },
    );
    println!(
        "disk use per GB of data: {:.2} GB at most; at the end journal {:.2}, snapshots {:.2}, store {:.2}",
        space.highest as f64 / data,
        space.journal as f64 / data,
        space.snapshots as f64 / data,
        space.store as f64 / data,
    );
    Ok(())
}
