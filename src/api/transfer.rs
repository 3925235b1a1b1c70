//! Export and import.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesOrdered, unfold};
use tonic::Streaming;

use super::call::Call;
use super::decode::{Answering, Decoder};
use super::duplex::{self, Answers};
use super::encode;
use super::service::Writes;
use super::status::{Failure, Paths};
use super::write::hand_over;
use crate::command::{Kept, Lookup};
use crate::model::Site;
use crate::proto;
use crate::store::RecordCursor;

/// Profiles of one response of an export: at 64 KiB each they stay below the 4 MiB that clients take.
const PAGE: usize = 32;
/// Records of one batch of an import.
const RECORDS: usize = 1_000;
/// Batches that may be unanswered.
const BATCHES: usize = 16;
/// Bytes of a resume token of a client.
const TOKEN: usize = 256;
/// How long one page or one batch may take, when the stream has no deadline.
const STEP: Duration = Duration::from_mins(1);

struct Export {
    lookup: Arc<dyn Lookup>,
    site: Site,
    after: Option<RecordCursor>,
    call: Arc<Call>,
    done: bool,
}

/// `ExportProfiles`, from where `token` says.
pub(super) fn export(
    lookup: Arc<dyn Lookup>,
    site: Site,
    token: &str,
    call: &Arc<Call>,
) -> Result<Answers<proto::ExportProfilesResponse>, Failure> {
    let after = match token {
        "" => None,
        token => {
            let cursor = from_hex(token).filter(|cursor| cursor.is_in(&site));
            Some(cursor.ok_or_else(|| Failure::invalid("resume_token", "was not given out by an export"))?)
        }
    };
    let export = Export { lookup, site, after, call: Arc::clone(call), done: false };
    Ok(Box::pin(unfold(export, |mut export| async move {
        let item = export.next().await?;
        export.done |= item.is_err();
        Some((item.map_err(Into::into), export))
    })))
}

impl Export {
    async fn next(&mut self) -> Option<Result<proto::ExportProfilesResponse, Failure>> {
        if self.done {
            return None;
        }
        // The client goes on from its last token, elsewhere if need be.
        if self.call.closing.is_closing() {
            return Some(Err(Failure::draining()));
        }
        let deadline = if self.call.given { self.call.deadline } else { Instant::now() + STEP };
        let page = self.lookup.export(self.site.clone(), self.after.clone(), PAGE, deadline).await;
        let page = match page {
            Ok(page) => page,
            Err(error) => return Some(Err(error.into())),
        };
        self.done = page.next.is_none();
        if page.next.is_some() {
            self.after = page.next;
        }
        let profiles = page
            .profiles
            .iter()
            .filter_map(|(user, view)| encode::profile(&self.site, user, view, true))
            .collect();
        let resume_token = self.after.as_ref().map(to_hex).unwrap_or_default();
        Some(Ok(proto::ExportProfilesResponse { profiles, resume_token }))
    }
}

fn to_hex(cursor: &RecordCursor) -> String {
    use std::fmt::Write as _;

    let mut text = String::with_capacity(cursor.0.len() * 2);
    for byte in &cursor.0 {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn from_hex(text: &str) -> Option<RecordCursor> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|digit| digit as u8);
    let bytes = text.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    });
    bytes.collect::<Option<Vec<u8>>>().map(RecordCursor)
}

/// `ImportProfiles`: each batch goes through the same stack as every other write, and is answered when all of
/// it is durable or refused.
pub(super) fn import<W: Writes>(
    mut writes: W,
    decoder: Decoder,
    requests: Streaming<proto::ImportProfilesRequest>,
    call: &Arc<Call>,
) -> Answers<proto::ImportProfilesResponse> {
    let until = call.given.then_some(call.deadline);
    let mut known: Option<Site> = None;
    let take_up = move |batch: proto::ImportProfilesRequest| {
        let site = check_batch(&batch, known.as_ref(), &decoder)?;
        known = Some(site.clone());
        let deadline = until.unwrap_or_else(|| Instant::now() + STEP);
        let answering = Answering { deadline, may_load: false };
        let submitted: Vec<_> = batch
            .records
            .into_iter()
            .map(|record| {
                let (number, user) = (record.number, record.user.clone());
                let answer = decoder.record(&site, record, answering);
                (number, user, answer.map(|request| hand_over(&mut writes, request)))
            })
            .collect();
        let resume_token = batch.resume_token;
        Ok(async move {
            let mut response = proto::ImportProfilesResponse { resume_token, ..Default::default() };
            for (number, user, submitted) in submitted {
                let answer = match submitted {
                    Ok(answer) => answer.await.map_err(|error| Failure::of_write(&error, &Paths::default())),
                    Err(failure) => Err(failure.kept(Kept::No)),
                };
                match answer {
                    Ok(receipt) => {
                        response.kept += 1;
                        let notes = encode::receipt(receipt).notes.into_iter();
                        let notes = notes.map(|note| proto::ImportNote { number, note: Some(note) });
                        response.notes.extend(notes);
                    }
                    Err(failure) => {
                        let error = Some(failure.into_item());
                        response.errors.push(proto::ImportError { number, user, error });
                    }
                }
            }
            response
        })
    };
    duplex::run(requests, call, BATCHES, FuturesOrdered::new(), take_up)
}

/// What is wrong with a batch as a whole ends the stream.
fn check_batch(
    batch: &proto::ImportProfilesRequest,
    known: Option<&Site>,
    decoder: &Decoder,
) -> Result<Site, Failure> {
    let count = batch.records.len();
    if count == 0 {
        return Err(Failure::invalid("records", "there must be at least one"));
    }
    if count > RECORDS {
        return Err(Failure::over_limit("records", format!("there are {count}, more than {RECORDS}")));
    }
    if batch.resume_token.len() > TOKEN {
        return Err(Failure::over_limit("resume_token", format!("has more than {TOKEN} bytes")));
    }
    match known {
        None => decoder.site(batch.site.clone()),
        Some(site) if batch.site.is_empty() || batch.site == site.as_str() => Ok(site.clone()),
        Some(site) => Err(Failure::invalid("site", format!("differs from the first request's, {site}"))),
    }
}
