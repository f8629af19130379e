//! A heap in a slice, and sorting with it: in place, `n · log n` at worst. The standard library's sort is faster but takes
//! some 6 KB of code for every type, which a firmware feels more than a list that is sorted once.

/// Makes `list` a heap: nothing goes `before` what is above it.
pub(crate) fn heapify<T>(list: &mut [T], before: impl Fn(&T, &T) -> bool) {
    for at in (0..list.len() / 2).rev() {
        sift(list, at, &before);
    }
}

/// Moves the entry at `at` down to its place in the heap.
pub(crate) fn sift<T>(list: &mut [T], mut at: usize, before: impl Fn(&T, &T) -> bool) {
    loop {
        let mut first = at;
        for child in [2 * at + 1, 2 * at + 2] {
            if child < list.len() && before(&list[child], &list[first]) {
                first = child;
            }
        }
        if first == at {
            return;
        }
        list.swap(at, first);
        at = first;
    }
}

/// Sorts `list`: what goes `before` comes first. Equal entries come in any order.
pub(crate) fn sort<T>(list: &mut [T], before: impl Fn(&T, &T) -> bool) {
    let after = |a: &T, b: &T| before(b, a);
    heapify(list, after);
    for end in (1..list.len()).rev() {
        list.swap(0, end);
        sift(&mut list[..end], 0, after);
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    #[test]
    fn lists_are_sorted_as_the_standard_library_sorts_them() {
        let mut state = 1u32;
        for len in (0..40).chain([1000]) {
            let mut list: Vec<u32> = (0..len)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    state >> 24
                })
                .collect();
            let mut expected = list.clone();
            expected.sort_unstable();
            super::sort(&mut list, |a, b| a < b);
            assert_eq!(list, expected);
        }
    }
}
