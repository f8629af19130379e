//! Finding a name that appears twice, without memory that grows with the names.

use crate::heap;

/// Names looked at together. A pass settles at least half as many, so `n` names take at most `2n / WINDOW` passes:
/// one for any real model.
const WINDOW: usize = 512;

/// A name with its hash in front: entries compare by hash first, and by the bytes only where hashes are equal.
type Entry<'a> = (u64, &'a [u8]);

/// The first duplicate found among the names that `names` yields, the same ones each time it is called.
///
/// Each pass keeps the smallest entries beyond those of the last pass, whatever order they come in, and sorts them:
/// equal ones become neighbours. Entries that do not fit wait for a later pass, so names chosen by an adversary cost no
/// more than others.
pub(super) fn find<'a, I: Iterator<Item = &'a [u8]>>(names: impl Fn() -> I) -> Option<&'a [u8]> {
    let mut window: [Entry<'a>; WINDOW] = [(0, &[]); WINDOW];
    let mut settled: Option<Entry<'a>> = None;
    loop {
        let mut len = 0;
        let mut limit: Option<Entry<'a>> = None;
        for name in names() {
            let entry = (hash(name), name);
            if settled.is_some_and(|s| entry <= s) || limit.is_some_and(|l| entry > l) {
                continue;
            }
            if len == WINDOW {
                if let Some(name) = equal_neighbours(&mut window) {
                    return Some(name);
                }
                len = WINDOW / 2;
                limit = Some(window[len - 1]);
                if entry > window[len - 1] {
                    continue;
                }
            }
            window[len] = entry;
            len += 1;
        }
        if let Some(name) = equal_neighbours(&mut window[..len]) {
            return Some(name);
        }
        settled = Some(limit?);
    }
}

fn equal_neighbours<'a>(entries: &mut [Entry<'a>]) -> Option<&'a [u8]> {
    heap::sort(entries, |a, b| a < b);
    entries.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0].1)
}

/// A multiplicative hash over words of eight bytes. Names of equal hash are allowed; they only cost a comparison.
fn hash(name: &[u8]) -> u64 {
    let (words, tail) = name.as_chunks::<8>();
    let mut last = [0; 8];
    last[..tail.len()].copy_from_slice(tail);
    words.iter().chain(core::iter::once(&last)).fold(0, |hash, word| {
        let product = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        product ^ (product >> 32)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::{format, string::String, vec::Vec};

    fn search(names: &[String]) -> Option<&[u8]> {
        find(|| names.iter().map(|n| n.as_bytes()))
    }

    #[test]
    fn finds_the_only_pair_wherever_it_is() {
        for n in [2, 3, 511, 512, 513, 1024, 5000] {
            let names: Vec<String> = (0..n).map(|i| format!("blk.{i}.ffn_up.weight")).collect();
            assert_eq!(search(&names), None, "{n} names");
            for (first, second) in [(0, n - 1), (n / 2, n - 1), (0, 1), (n / 3, n / 3 + 1)] {
                let mut twice = names.clone();
                twice[second] = names[first].clone();
                let expected = (first != second).then_some(names[first].as_bytes());
                assert_eq!(search(&twice), expected, "{n} names, {first} again at {second}");
            }
        }
    }

    #[test]
    fn order_and_equal_hashes_do_not_matter() {
        let mut names: Vec<String> = (0..3000).map(|i| format!("{i:08}")).collect();
        names.sort_by_key(|n| core::cmp::Reverse(hash(n.as_bytes())));
        assert_eq!(search(&names), None);
        names.push(names[1500].clone());
        assert_eq!(search(&names), Some(names[1500].as_bytes()));
        // A trailing zero byte hashes like no byte.
        assert_eq!(hash(b"a"), hash(b"a\0"));
        assert_eq!(find(|| [b"a".as_slice(), b"a\0"].into_iter()), None);
    }
}
