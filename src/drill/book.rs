//! What was acknowledged: the book that the store is checked against afterwards.
//!
//! Each write adds 1 to a counter of its user and sets `last` to its own number, which only rises. So after all is
//! applied, the counter must equal the number of acknowledged writes, and `last` must be the last one of them.

use std::collections::HashMap;

/// What a write was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It is kept.
    Kept,
    /// It is not kept.
    NotKept,
    /// It cannot be told: it is asked again, with the same request id.
    Unknown,
}

/// A write that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Its number over all writes, from 1.
    pub number: u64,
    /// Its site.
    pub site: u32,
    /// Its user.
    pub user: u32,
}

/// One user's acknowledged writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// How many are kept.
    pub kept: u64,
    /// The number of the last one that is kept.
    pub last: u64,
}

/// The book.
#[derive(Debug, Default)]
pub struct Book {
    accounts: HashMap<(u32, u32), Account>,
    unknown: Vec<Offered>,
}

/// What the check found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Users that were read.
    pub users: u64,
    /// Acknowledged writes.
    pub acknowledged: u64,
    /// Of them, those that are not there.
    pub lost: u64,
    /// Writes that are there and were not acknowledged, or are there twice.
    pub extra: u64,
    /// Users whose last value is another one than the last acknowledged.
    pub wrong: u64,
}

impl Checked {
    /// Whether everything is as it was said to be.
    pub fn is_right(&self) -> bool {
        self.lost == 0 && self.extra == 0 && self.wrong == 0
    }
}

impl Book {
    /// Notes an answer.
    pub fn note(&mut self, offered: Offered, heard: Heard) {
        match heard {
            Heard::Kept => {
                let account = self.accounts.entry((offered.site, offered.user)).or_default();
                account.kept += 1;
                account.last = account.last.max(offered.number);
            }
            Heard::NotKept => {}
            Heard::Unknown => self.unknown.push(offered),
        }
    }

    /// The writes of which it is not known whether they are kept; they have to be asked again.
    pub fn take_unknown(&mut self) -> Vec<Offered> {
        std::mem::take(&mut self.unknown)
    }

    /// All users with acknowledged writes.
    pub fn users(&self) -> Vec<(u32, u32)> {
        let mut users: Vec<_> = self.accounts.keys().copied().collect();
        users.sort_unstable();
        users
    }

    /// Compares with what the server says of the users: the counter and the last number.
    pub fn check(&self, said: &HashMap<(u32, u32), (u64, u64)>) -> Checked {
        let mut checked = Checked::default();
        for (user, account) in &self.accounts {
            let (count, last) = said.get(user).copied().unwrap_or_default();
            checked.users += 1;
            checked.acknowledged += account.kept;
            checked.lost += account.kept.saturating_sub(count);
            checked.extra += count.saturating_sub(account.kept);
            checked.wrong += u64::from(last != account.last);
        }
        checked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_repetition_and_disorder_are_found() {
        let mut book = Book::default();
        for number in 1..=10 {
            let offered = Offered { number, site: 0, user: (number % 2) as u32 };
            let heard = [Heard::Kept, Heard::NotKept, Heard::Unknown][usize::from(number == 9) * 2];
            book.note(offered, heard);
        }
        let [unknown] = book.take_unknown()[..] else { panic!("one is unknown") };
        book.note(unknown, Heard::Kept);
        assert_eq!(book.users(), [(0, 0), (0, 1)]);
        let right = HashMap::from([((0, 0), (5, 10)), ((0, 1), (5, 9))]);
        assert!(book.check(&right).is_right());
        let wrong = HashMap::from([((0, 0), (4, 10)), ((0, 1), (6, 7))]);
        let checked = book.check(&wrong);
        assert_eq!((checked.lost, checked.extra, checked.wrong), (1, 1, 1));
        assert_eq!(book.check(&HashMap::new()).lost, 10);
    }
}
