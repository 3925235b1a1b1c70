//! What everything around a request costs: counting of answers, measuring, kill switch, and for what goes to the store
//! its breaker, on against off, over the same real node in this process. Without gRPC, which would hide it.
//!
//! `cargo bench --bench stack`

use std::hint::black_box;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use steadfast::accept::Accept;
use steadfast::api::{Measured, Meters};
use steadfast::app::Core;
use steadfast::clock::SystemClock;
use steadfast::command::{
    Outcome, ProfileView, ReadError, ReadRequest, Receipt, Wait, WriteError, WriteRequest,
};
use steadfast::config::Config;
use steadfast::model::{AttributeChange, Change, ChangeKind, ProfileKey, Record, Site, User, Value, Write};
use steadfast::read::Read;
use steadfast::store::service::Load;
use steadfast::store::{Store, StoreError, StoreFuture};
use tower::Service;

const USERS: usize = 1_000;

/// The store without a breaker.
#[derive(Clone)]
struct Bare(Arc<dyn Store>);

impl Service<Load> for Bare {
    type Response = Vec<Option<Arc<Record>>>;
    type Error = StoreError;
    type Future = StoreFuture<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StoreError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, load: Load) -> Self::Future {
        self.0.load(load.purpose, load.keys)
    }
}

/// Another user each time, so that no line of memory is warmer than in a server.
fn user(n: u64) -> User {
    User::new(format!("user-{:04}", n as usize % USERS))
}

fn deadline() -> Instant {
    Instant::now() + Duration::from_mins(1)
}

fn read(n: u64) -> ReadRequest {
    ReadRequest { keys: vec![ProfileKey::new(Site::new("acme"), user(n))], deadline: deadline() }
}

fn write(n: u64) -> WriteRequest {
    let change = Change::Set(Value::String("pro".into()));
    let kind = ChangeKind::Identify(vec![AttributeChange { name: "plan".into(), change, occurred_at: None }]);
    let write = Write { user: user(n), request_id: None, occurred_at: None, if_version: None, kind };
    WriteRequest { site: Site::new("acme"), write, wait: Wait::Applied, deadline: deadline(), may_load: true }
}

/// Time for `calls` reads, one after another.
async fn reads<S>(stack: &mut S, calls: u64) -> Duration
where
    S: Service<ReadRequest, Response = Vec<ProfileView>, Error = ReadError>,
{
    let began = Instant::now();
    for n in 0..calls {
        let views = stack.call(black_box(read(n))).await.expect("read");
        assert!(views.iter().all(|view| view.profile.is_some()), "not there");
    }
    began.elapsed()
}

/// Time for `calls` writes that change nothing, one after another.
async fn writes<S>(stack: &mut S, calls: u64) -> Duration
where
    S: Service<WriteRequest, Response = Receipt, Error = WriteError>,
{
    let began = Instant::now();
    for n in 0..calls {
        let receipt = stack.call(black_box(write(n))).await.expect("written");
        assert_eq!(receipt.outcome, Outcome::Unchanged);
    }
    began.elapsed()
}

fn stack(criterion: &mut Criterion) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    // Without a cache of profiles every read goes to the store.
    for (cache, capacity) in [("cached", 64 << 20), ("loaded", 0)] {
        let mut config = Config::ephemeral(dir.path().join(cache));
        config.cache.profile_capacity.0 = capacity;
        let mut core = Core::open(&config, Arc::new(SystemClock)).expect("a node");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            for n in 0..USERS as u64 {
                core.writes().call(write(n)).await.expect("written");
            }
        });
        let meters = Meters::new(Instant::now());
        let plain = Bare(Arc::clone(&core.switch) as Arc<dyn Store>);

        let mut group = criterion.benchmark_group(format!("read_{cache}"));
        let mut none = Read::new(Arc::clone(&core.read), plain.clone());
        group.bench_function("no_layers", |bencher| {
            bencher.iter_custom(|calls| runtime.block_on(reads(&mut none, calls)));
        });
        let mut all = core.counted(Measured::new(core.reads(), meters.clone()));
        group.bench_function("all_layers", |bencher| {
            bencher.iter_custom(|calls| runtime.block_on(reads(&mut all, calls)));
        });
        group.finish();

        let mut group = criterion.benchmark_group(format!("identify_that_changes_nothing_{cache}"));
        let mut none = Accept::new(Arc::clone(&core.shared), plain);
        group.bench_function("no_layers", |bencher| {
            bencher.iter_custom(|calls| runtime.block_on(writes(&mut none, calls)));
        });
        let mut all = core.counted(Measured::new(core.writes(), meters));
        group.bench_function("all_layers", |bencher| {
            bencher.iter_custom(|calls| runtime.block_on(writes(&mut all, calls)));
        });
        group.finish();
        core.close(Duration::from_secs(5)).expect("closed in order");
    }
}

criterion_group!(benches, stack);
criterion_main!(benches);
