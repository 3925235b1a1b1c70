//! What entries make of records, kept in plain maps: the shortest way to say what a store must hold.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::applier::{RefusedList, batch};
use crate::model::{ChangeKind, Command, EventTime, Record, hash};
use crate::read::Stamped;
use crate::sites::Sites;
use crate::store::{AttributeInfo, RefusedRecord, StoredItem};

/// What is compared: the state of users by hash, refused entries, attributes.
#[derive(Debug, Default, PartialEq)]
pub struct Contents {
    pub users: BTreeMap<(String, [u8; 16]), Arc<Record>>,
    pub refused: BTreeMap<(String, u64), RefusedRecord>,
    pub attributes: BTreeMap<(String, String), AttributeInfo>,
}

impl Contents {
    /// Takes an item up as a store does: a profile hides the grave behind it.
    pub fn add(&mut self, item: StoredItem) {
        match item {
            StoredItem::Profile { key, record } => {
                let user = (key.site.to_string(), hash::grave_hash(&key.site, &key.user));
                self.users.insert(user, record);
            }
            StoredItem::Grave { site, user_hash, record } => {
                self.users.entry((site.to_string(), user_hash)).or_insert(record);
            }
            StoredItem::Refused(record) => {
                self.refused.insert((record.entry.site.to_string(), record.position), record);
            }
            StoredItem::Attribute { site, mut info } => {
                // Depends on who was held when.
                info.first_seen = EventTime::MIN;
                self.attributes.insert((site.to_string(), info.name.to_string()), info);
            }
        }
    }
}

/// Records, and the entries applied to them one by one.
pub struct Replica {
    pub contents: Contents,
    sites: Sites,
    refused: RefusedList,
}

impl Replica {
    pub fn new(items: impl IntoIterator<Item = StoredItem>) -> Self {
        let mut replica =
            Self { contents: Contents::default(), sites: Sites::new(100), refused: RefusedList::default() };
        for item in items {
            match &item {
                StoredItem::Refused(record) => _ = replica.refused.add(record, EventTime::MIN),
                StoredItem::Attribute { site, info } => {
                    let site = replica.sites.restore(site);
                    let mut lane = site.lane.lock();
                    site.change_registry(&mut lane, |registry| registry.restore(info.clone()));
                }
                StoredItem::Profile { .. } | StoredItem::Grave { .. } => {}
            }
            replica.contents.add(item);
        }
        replica
    }

    pub fn apply(&mut self, stamped: &Stamped) {
        let site = self.sites.restore(&stamped.entry.site);
        let name = site.site.to_string();
        let mut records = HashMap::new();
        if let Command::Write(write) = &stamped.entry.command {
            if let ChangeKind::Identify(changes) = &write.kind {
                let mut lane = site.lane.lock();
                site.change_registry(&mut lane, |registry| registry.declare(changes, stamped.accepted_at));
            }
            let key = (name.clone(), hash::grave_hash(&site.site, &write.user));
            records.insert(write.user.clone(), self.contents.users.get(&key).cloned());
        }
        let turn = batch::turn(&site, std::slice::from_ref(stamped), records, &self.refused);
        assert!(turn.failing.is_empty());
        for record in turn.commit.refused {
            self.refused.add(&record, EventTime::MIN);
            self.contents.add(StoredItem::Refused(record));
        }
        for position in turn.commit.forget_refused {
            self.refused.remove(&site.site, position);
            self.contents.refused.remove(&(name.clone(), position));
        }
        for put in turn.commit.profiles {
            let user = (name.clone(), hash::grave_hash(&site.site, &put.user));
            self.contents.users.insert(user, put.after);
        }
        for info in turn.commit.registry {
            let mut lane = site.lane.lock();
            site.change_registry(&mut lane, |registry| registry.restore(info.clone()));
            drop(lane);
            self.contents.add(StoredItem::Attribute { site: site.site.clone(), info });
        }
    }
}
