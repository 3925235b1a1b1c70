//! Following a call to where it is done: who asked may give up, while the thread that works on it hangs on.
//!
//! A watch travels with its call. The caller lends it ([`carrying`]); whoever does the work takes it
//! ([`take`]) in the same breath, before the call's future is returned, and tells it when the work begins and
//! ends. So decorators that only pass calls on need not know of it.

use std::cell::RefCell;

use super::{StoreError, StoreFuture};

/// Hears of one call. Dropped before [`ended`](Self::ended): the call was given up.
pub trait Watch: Send {
    /// The backend has the call, and nobody else waits behind it.
    fn reached(&mut self);

    /// A thread of the backend begins it: what waits for this thread waits for this call.
    fn began(&mut self);

    /// It is done; `error` is its answer's.
    fn ended(&mut self, error: Option<&StoreError>);
}

/// The watch of one call.
pub type BoxedWatch = Box<dyn Watch>;

thread_local! {
    static CARRIED: RefCell<Option<BoxedWatch>> = const { RefCell::new(None) };
}

/// Puts back what was carried before, also when the call panics.
struct Restore(Option<BoxedWatch>);

impl Drop for Restore {
    fn drop(&mut self) {
        CARRIED.set(self.0.take());
    }
}

/// Makes `call` with `watch`. A backend that has no threads of its own does not take it: then the call lives
/// as long as its future.
pub fn carrying<T: Send + 'static>(
    watch: Option<BoxedWatch>,
    call: impl FnOnce() -> StoreFuture<T>,
) -> StoreFuture<T> {
    let Some(watch) = watch else { return call() };
    let restore = Restore(CARRIED.replace(Some(watch)));
    let future = call();
    let left = take();
    drop(restore);
    match left {
        None => future,
        Some(mut watch) => Box::pin(async move {
            watch.began();
            let result = future.await;
            watch.ended(result.as_ref().err());
            result
        }),
    }
}

/// Takes the watch of the call that is being made on this thread, if there is one.
pub fn take() -> Option<BoxedWatch> {
    CARRIED.take()
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Heard(Arc<Mutex<Vec<String>>>);

    impl Watch for Heard {
        fn reached(&mut self) {
            self.0.lock().push("reached".into());
        }
        fn began(&mut self) {
            self.0.lock().push("began".into());
        }
        fn ended(&mut self, error: Option<&StoreError>) {
            self.0.lock().push(format!("ended {error:?}"));
        }
    }

    #[tokio::test]
    async fn what_no_thread_takes_is_followed_by_its_future() {
        let heard = Heard::default();
        let call = || -> StoreFuture<()> { Box::pin(ready(Err(StoreError::Busy))) };
        assert_eq!(carrying(Some(Box::new(heard.clone())), call).await, Err(StoreError::Busy));
        assert_eq!(*heard.0.lock(), ["began", "ended Some(Busy)"]);
        assert!(take().is_none());
    }

    #[test]
    fn what_is_taken_lives_where_it_was_taken_to() {
        let heard = Heard::default();
        let mut kept = None;
        let call = || -> StoreFuture<()> {
            kept = take();
            assert!(take().is_none());
            Box::pin(pending())
        };
        drop(carrying(Some(Box::new(heard.clone())), call));
        let mut kept = kept.unwrap();
        kept.began();
        kept.ended(None);
        assert_eq!(*heard.0.lock(), ["began", "ended None"]);
    }

    #[test]
    fn a_call_that_panics_leaves_nothing_behind() {
        let call = || -> StoreFuture<()> { panic!("as the test asks for") };
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            drop(carrying(Some(Box::new(Heard::default())), call));
        }));
        assert!(panicked.is_err() && take().is_none());
    }
}
