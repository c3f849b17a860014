//! Things that millions of rows name, kept once and numbered.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;

/// Things by number, and numbers by what a thing is called. Nothing is ever taken out.
#[derive(Debug)]
pub(crate) struct Interned<T> {
    list: Arc<Vec<Arc<T>>>,
    numbers: HashTable<u32>,
    hasher: RandomState,
}

/// What an interned thing is found by.
pub(crate) trait Called {
    /// Equal for equal things only.
    type Name<'a>: Copy + Hash
    where
        Self: 'a;

    /// What this one is called.
    fn called(&self) -> Self::Name<'_>;

    /// Whether it is called so. (A name of another lifetime is a name of another type to the trait.)
    fn is_called(&self, name: Self::Name<'_>) -> bool;
}

impl<T: Called> Interned<T> {
    /// The number of the thing of this name, if it has one.
    pub(crate) fn find(&self, name: T::Name<'_>) -> Option<u32> {
        let hash = self.hasher.hash_one(name);
        let is_it = |number: &u32| self.list[*number as usize].is_called(name);
        self.numbers.find(hash, is_it).copied()
    }

    /// Numbers a thing, which must not have a number yet.
    ///
    /// # Panics
    ///
    /// At 2^32 things, which do not fit in memory.
    pub(crate) fn add(&mut self, thing: T) -> u32 {
        let number = u32::try_from(self.list.len()).expect("fewer than 2^32 things fit in memory");
        let hash = self.hasher.hash_one(thing.called());
        Arc::make_mut(&mut self.list).push(Arc::new(thing));
        let (list, hasher) = (&self.list, &self.hasher);
        self.numbers
            .insert_unique(hash, number, |other| hasher.hash_one(list[*other as usize].called()));
        number
    }

    /// The thing of a number.
    pub(crate) fn get(&self, number: u32) -> &T {
        &self.list[number as usize]
    }

    /// All of them, in the order of their numbers. Who keeps the list has it as it is now.
    pub(crate) fn list(&self) -> &Arc<Vec<Arc<T>>> {
        &self.list
    }
}

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Interned {
            list: Arc::default(),
            numbers: HashTable::new(),
            hasher: RandomState::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Called for String {
        type Name<'a> = &'a str;

        fn called(&self) -> &str {
            self
        }

        fn is_called(&self, name: &str) -> bool {
            self == name
        }
    }

    #[test]
    fn a_name_finds_its_number_and_no_other() {
        let mut interned = Interned::default();
        for number in 0..1000 {
            assert_eq!(interned.find(format!("s{number}").as_str()), None);
            assert_eq!(interned.add(format!("s{number}")), number);
        }
        for number in 0..1000 {
            assert_eq!(interned.find(format!("s{number}").as_str()), Some(number));
            assert_eq!(*interned.get(number), format!("s{number}"));
        }
        assert_eq!(interned.list().len(), 1000);
    }
}
