//! The drill notices what is broken on purpose, and says so with its exit status.

use std::process::Output;

use crate::support;

/// A short drill of a hang. What the machine does to its times is not looked at here.
async fn drill(sabotage: &'static str) -> Output {
    let drill = move || {
        let mut command = support::program();
        command.args(["drill", "--scenario", "hang", "--duration", "6 s", "--rate", "50"]);
        command.args(["--sabotage", sabotage]).output().unwrap()
    };
    tokio::task::spawn_blocking(drill).await.unwrap()
}

/// The word and the text for a promise.
fn judged(output: &Output, promise: &str) -> (String, String) {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let mut lines = text.lines().skip_while(|line| !line.ends_with(promise));
    let word = lines.next().unwrap_or_else(|| panic!("{promise}: {text}"));
    let word = word.strip_suffix(promise).unwrap().trim().to_owned();
    (word, lines.next().unwrap().trim().to_owned())
}

#[tokio::test]
async fn a_store_that_forgets_is_found_out() {
    let output = drill("forgetful-store").await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let (word, seen) = judged(&output, "Accepted means kept");
    assert_eq!(word, "BROKEN");
    assert!(seen.contains(" lost") && !seen.contains(" 0 lost"), "{seen}");
}

#[tokio::test]
async fn a_breaker_that_is_forced_closed_is_found_out() {
    let output = drill("breaker-off").await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let (word, seen) = judged(&output, "Trouble is judged by the age of calls");
    assert_eq!((word.as_str(), seen.as_str()), ("BROKEN", "no incident tells of it"));
    let (word, seen) = judged(&output, "Accepted means kept");
    assert_eq!(word, "kept", "{seen}");
}
