//! What a Closed breaker costs a call, over a service that does nothing: ours beside three crates, on one
//! thread and on two, and what reading the clock around a call would add (ours reads none; its watchdog runs).
//!
//! `cargo bench --bench breaker`

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::hint::black_box;
use std::pin::pin;
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use failsafe::CircuitBreaker;
use recloser::Recloser;
use steadfast::breaker::{Bounds, BreakerLayer, Outcome, Registry, Role, Settings, Watchdog, fixed};
use tower::{Layer, Service, service_fn};
use tower_resilience_circuitbreaker::CircuitBreakerLayer;

#[expect(
    clippy::inline_always,
    reason = "a caller polls where the future lies; a move here would cost more than a breaker"
)]
#[inline(always)]
fn finish<F: Future>(future: F) -> F::Output {
    let mut context = Context::from_waker(Waker::noop());
    let mut future = pin!(future);
    loop {
        // The empty service answers at once; a breaker with an async lock may have to be asked again.
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        std::hint::spin_loop();
    }
}

fn empty() -> impl Service<u64, Response = u64, Error = Infallible, Future = Ready<Result<u64, Infallible>>>
+ Clone
+ Send
+ 'static {
    service_fn(|n: u64| ready(Ok(n)))
}

/// Time for `calls` calls on each of `threads` threads at once.
fn on_threads<C: FnMut(u64) + Send>(threads: usize, calls: u64, make: impl Fn() -> C + Sync) -> Duration {
    let start = Barrier::new(threads);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut call = make();
                    start.wait();
                    let began = Instant::now();
                    for n in 0..calls {
                        call(n);
                    }
                    began.elapsed()
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker")).max().unwrap_or_default()
    })
}

fn closed(criterion: &mut Criterion) {
    let registry = Arc::new(Registry::new(Bounds::default(), 1, ()));
    let scope = registry.add_operation("read", Settings::reads()).expect("sound settings");
    let _watchdog = Watchdog::start(Arc::clone(&registry)).expect("a thread");
    let layer = BreakerLayer::new(fixed(scope, Role::Caller), |_: &Result<u64, Infallible>| Outcome::Good);
    let recloser = Recloser::default();
    let failsafe = failsafe::Config::new().build();
    let resilience = CircuitBreakerLayer::builder().build().expect("sound settings");

    let mut group = criterion.benchmark_group("breaker_closed");
    for threads in [1, 2] {
        group.bench_function(BenchmarkId::new("empty_service", threads), |bencher| {
            bencher.iter_custom(|calls| {
                on_threads(threads, calls, || {
                    let mut service = empty();
                    move |n| {
                        let _ = black_box(finish(service.call(black_box(n))));
                    }
                })
            });
        });
        group.bench_function(BenchmarkId::new("two_clock_reads", threads), |bencher| {
            bencher.iter_custom(|calls| {
                on_threads(threads, calls, || {
                    |_| {
                        let began = Instant::now();
                        black_box(began.elapsed());
                    }
                })
            });
        });
        group.bench_function(BenchmarkId::new("steadfast", threads), |bencher| {
            bencher.iter_custom(|calls| {
                on_threads(threads, calls, || {
                    let mut service = layer.layer(empty());
                    move |n| drop(black_box(finish(service.call(black_box(n)))))
                })
            });
        });
        group.bench_function(BenchmarkId::new("steadfast_and_two_clock_reads", threads), |bencher| {
            bencher.iter_custom(|calls| {
                on_threads(threads, calls, || {
                    let mut service = layer.layer(empty());
                    move |n| {
                        let began = Instant::now();
                        drop(black_box(finish(service.call(black_box(n)))));
                        black_box(began.elapsed());
                    }
                })
            });
        });
        group.bench_function(BenchmarkId::new("recloser", threads), |bencher| {
            bencher.iter_custom(|calls| {
                on_threads(threads, calls, || {
                    |n| drop(black_box(recloser.call(|| Ok::<u64, Infallible>(black_box(n)))))
                })
            });
        });
        group.bench_function(BenchmarkId::new("failsafe", threads), |bencher| {
            bencher.iter_custom(|calls| {
                on_threads(threads, calls, || {
                    |n| drop(black_box(failsafe.call(|| Ok::<u64, Infallible>(black_box(n)))))
                })
            });
        });
        group.bench_function(BenchmarkId::new("tower_resilience", threads), |bencher| {
            let shared = resilience.layer(empty());
            bencher.iter_custom(|calls| {
                on_threads(threads, calls, || {
                    let mut service = shared.clone();
                    move |n| {
                        let mut context = Context::from_waker(Waker::noop());
                        while service.poll_ready(&mut context).is_pending() {}
                        drop(black_box(finish(service.call(black_box(n)))));
                    }
                })
            });
        });
    }
    group.finish();
}

criterion_group!(benches, closed);
criterion_main!(benches);
