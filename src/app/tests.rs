//! The data side, whole: journal, applier and sled in a directory of its own.

use std::time::{Duration, Instant};

use tower::Service;

use super::Core;
use crate::clock::SystemClock;
use crate::command::{Outcome, ReadRequest, Receipt, Wait, WriteError, WriteRequest};
use crate::config::Config;
use crate::model::{AttributeChange, Change, ChangeKind, ProfileKey, Site, User, Value, Write};

fn set(user: &str, name: &str, value: Value) -> WriteRequest {
    WriteRequest {
        site: Site::new("acme"),
        write: Write {
            user: User::new(user),
            request_id: None,
            occurred_at: None,
            if_version: None,
            kind: ChangeKind::Identify(vec![AttributeChange {
                name: name.into(),
                change: Change::Set(value),
                occurred_at: None,
            }]),
        },
        wait: Wait::Applied,
        deadline: Instant::now() + Duration::from_secs(20),
        may_load: true,
    }
}

async fn write(core: &Core, request: WriteRequest) -> Result<Receipt, WriteError> {
    core.writes().call(request).await
}

async fn read(core: &Core, user: &str) -> Option<Value> {
    let keys = vec![ProfileKey::new(Site::new("acme"), User::new(user))];
    let deadline = Instant::now() + Duration::from_secs(20);
    let views = core.reads().call(ReadRequest { keys, deadline }).await.unwrap();
    views[0].profile.as_ref()?.live()?.attribute("plan").map(|a| a.value.clone())
}

#[tokio::test]
async fn what_is_written_is_read_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::ephemeral(dir.path());
    config.writes.reply_after.0 = Duration::from_secs(20);
    let pro = Value::String("pro".into());
    let mut core = Core::open(&config, std::sync::Arc::new(SystemClock)).unwrap();
    let first = write(&core, set("u", "plan", pro.clone())).await.unwrap();
    assert_eq!((first.outcome, first.version), (Outcome::Applied, Some(1)));
    let again = write(&core, set("u", "plan", pro.clone())).await.unwrap();
    assert_eq!((again.outcome, again.version, again.position), (Outcome::Unchanged, Some(1), None));
    assert_eq!(read(&core, "u").await, Some(pro.clone()));
    assert_eq!(read(&core, "v").await, None);
    let wrong = write(&core, set("u", "plan", Value::Number(1.0))).await;
    assert!(matches!(wrong, Err(WriteError::TypeMismatch { .. })), "{wrong:?}");

    let mut retried = set("w", "plan", pro.clone());
    retried.write.request_id = Some("r1".into());
    let one = write(&core, retried.clone()).await.unwrap();
    let two = write(&core, retried.clone()).await.unwrap();
    assert_eq!((one.outcome, two.outcome), (Outcome::Applied, Outcome::Duplicate));
    assert_eq!(one.position, two.position);
    core.close(Duration::from_secs(10)).unwrap();
    drop(core);

    let mut core = Core::open(&config, std::sync::Arc::new(SystemClock)).unwrap();
    assert_eq!(read(&core, "u").await, Some(pro.clone()));
    assert_eq!(write(&core, retried).await.unwrap().outcome, Outcome::Duplicate);
    assert_eq!(write(&core, set("u", "plan", pro)).await.unwrap().outcome, Outcome::Unchanged);
    core.close(Duration::from_secs(10)).unwrap();
}
