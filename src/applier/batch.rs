//! One turn of a lane: what its entries make of the records they meet. No I/O.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::refused::RefusedList;
use crate::accept::End;
use crate::command::WriteState;
use crate::model::evaluate::{Evaluation, evaluate};
use crate::model::{ChangeKind, Command, ProfileKey, Record, Refusal, User, Write, hash};
use crate::read::{ProfileCache, Stamped};
use crate::sites::SiteState;
use crate::store::{AttributeInfo, ProfilePut, RefusedRecord, SiteCommit};

/// What a turn leads to.
#[derive(Debug)]
pub struct Turn {
    /// What the store has to do.
    pub commit: SiteCommit,
    /// What became of each entry, in the order given; `None`: it could not be evaluated.
    pub ends: Vec<Option<End>>,
    /// Users on whom `evaluate` panicked.
    pub failing: Vec<u64>,
}

impl Turn {
    /// Whether there is nothing for the store to do.
    pub fn is_settled(&self) -> bool {
        self.commit.profiles.is_empty()
            && self.commit.refused.is_empty()
            && self.commit.forget_refused.is_empty()
            && self.commit.registry.is_empty()
    }
}

/// A record before and after the turn.
struct Course {
    before: Option<Arc<Record>>,
    now: Option<Arc<Record>>,
    /// Refused entries that a delete of this turn erases.
    forget_refused: Vec<u64>,
    failing: bool,
}

/// The records of users that `entries` write to, as far as `cache` has them, and the keys of those that must be loaded.
pub fn known(
    site: &SiteState,
    entries: &[Stamped],
    cache: &ProfileCache,
) -> (HashMap<User, Option<Arc<Record>>>, Vec<ProfileKey>) {
    let mut records = HashMap::with_capacity(entries.len());
    let mut missing = Vec::new();
    for entry in entries {
        let Command::Write(write) = &entry.entry.command else { continue };
        if records.contains_key(&write.user) {
            continue;
        }
        let key = ProfileKey::new(site.site.clone(), write.user.clone());
        let known = cache.get(&key);
        if known.is_none() {
            missing.push(key);
        }
        records.insert(write.user.clone(), known.flatten());
    }
    (records, missing)
}

/// Evaluates `entries` of one site one after the other; those of one user meet each other's results and
/// are committed as one.
pub fn turn(
    site: &SiteState,
    entries: &[Stamped],
    records: HashMap<User, Option<Arc<Record>>>,
    refused: &RefusedList,
) -> Turn {
    let mut courses: HashMap<User, Course> = records
        .into_iter()
        .map(|(user, record)| {
            let course =
                Course { before: record.clone(), now: record, forget_refused: Vec::new(), failing: false };
            (user, course)
        })
        .collect();
    let mut turn = Turn {
        commit: SiteCommit {
            last_position: entries.last().map_or(0, |entry| entry.position.number),
            ..SiteCommit::of(site.site.clone())
        },
        ends: Vec::with_capacity(entries.len()),
        failing: Vec::new(),
    };
    for stamped in entries {
        let end = match &stamped.entry.command {
            Command::Write(write) => match courses.get_mut(&write.user) {
                Some(course) if !course.failing => turn.write(site, stamped, write, course, refused),
                _ => None,
            },
            Command::SetAttributeState { name, disabled, indexed } => {
                let registry = site.registry.load();
                if let Some(known) = registry.get(name) {
                    let info = AttributeInfo { disabled: *disabled, indexed: *indexed, ..known.clone() };
                    turn.commit.registry.retain(|other| other.name != info.name);
                    turn.commit.registry.push(info);
                }
                Some(End::Applied { version: 0, notes: Default::default() })
            }
            Command::DiscardRefused { position } => {
                turn.commit.forget_refused.push(*position);
                Some(End::Applied { version: 0, notes: Default::default() })
            }
        };
        turn.ends.push(end);
    }
    turn.leave_out(entries, &courses);
    for (user, course) in courses {
        if course.failing {
            turn.failing.push(ProfileKey::new(site.site.clone(), user).hash64());
            continue;
        }
        turn.commit.forget_refused.extend(course.forget_refused);
        match course.now {
            Some(after) if !course.before.as_ref().is_some_and(|before| Arc::ptr_eq(before, &after)) => {
                turn.commit.profiles.push(ProfilePut { user, before: course.before, after });
            }
            _ => {}
        }
    }
    turn
}

impl Turn {
    /// Nothing of a user on whom `evaluate` panicked is committed, so none of its entries has ended, those before
    /// the panic included.
    fn leave_out(&mut self, entries: &[Stamped], courses: &HashMap<User, Course>) {
        let fails = |command: &Command| match command {
            Command::Write(write) => courses.get(&write.user).is_some_and(|course| course.failing),
            Command::SetAttributeState { .. } | Command::DiscardRefused { .. } => false,
        };
        for (stamped, end) in entries.iter().zip(&mut self.ends) {
            if fails(&stamped.entry.command) {
                *end = None;
            }
        }
        self.commit.refused.retain(|record| !fails(&record.entry.command));
    }

    fn write(
        &mut self,
        site: &SiteState,
        stamped: &Stamped,
        write: &Write,
        course: &mut Course,
        refused: &RefusedList,
    ) -> Option<End> {
        let stamp = stamped.stamp();
        // A bug in `evaluate` must not stop the site: its user is left alone, the others go on.
        let evaluated = catch_unwind(AssertUnwindSafe(|| evaluate(course.now.as_deref(), write, &stamp)));
        let Ok(evaluation) = evaluated else {
            course.failing = true;
            return None;
        };
        if let ChangeKind::Identify(changes) = &write.kind {
            let registry = site.registry.load();
            if !registry.stored(changes) {
                for mut info in registry.not_stored(changes) {
                    if self.commit.registry.iter().all(|other| other.name != info.name) {
                        info.first_seen = stamped.accepted_at;
                        self.commit.registry.push(info);
                    }
                }
            }
        }
        Some(match evaluation {
            Evaluation::Applied { record, notes } => {
                let version = record.version();
                if matches!(write.kind, ChangeKind::Delete) {
                    self.erase_refused(site, write, stamped.position.number, course, refused);
                }
                course.now = Some(Arc::new(record));
                End::Applied { version, notes }
            }
            Evaluation::Unchanged { version, notes } => {
                if matches!(write.kind, ChangeKind::Delete) {
                    self.erase_refused(site, write, stamped.position.number, course, refused);
                }
                End::Unchanged { version, notes }
            }
            Evaluation::Duplicate { version } => End::Duplicate { version },
            // A replay. It may have been refused then, and a later one applied.
            Evaluation::AlreadyApplied => match refused.state(&site.site, stamped.position.number) {
                Some(WriteState::Refused { reason, .. }) => End::Refused(reason),
                _ => End::Applied {
                    version: version_made_by(write, course.now.as_deref()),
                    notes: Default::default(),
                },
            },
            Evaluation::Refused(reason) => {
                self.commit.refused.push(RefusedRecord {
                    position: stamped.position.number,
                    accepted_at: stamped.accepted_at,
                    entry: (*stamped.entry).clone(),
                    listed: !matches!(reason, Refusal::VersionMismatch { .. }),
                    reason: reason.clone(),
                });
                End::Refused(reason)
            }
        })
    }

    /// A delete erases the user's refused entries too, those of this very turn included.
    fn erase_refused(
        &mut self,
        site: &SiteState,
        write: &Write,
        position: u64,
        course: &mut Course,
        refused: &RefusedList,
    ) {
        self.commit.refused.retain(|record| match &record.entry.command {
            Command::Write(other) => other.user != write.user,
            _ => true,
        });
        let user = ProfileKey::new(site.site.clone(), write.user.clone()).hash64();
        course.forget_refused.extend(refused.of_user(&site.site, user, position));
    }
}

/// The version that a write made which the record has applied already.
fn version_made_by(write: &Write, record: Option<&Record>) -> u64 {
    let Some(record) = record else { return 0 };
    let id = write.request_id.as_deref().map(hash::request_hash);
    record.recent().iter().find(|known| Some(known.id) == id).map_or(record.version(), |known| known.version)
}

#[cfg(test)]
mod tests;
