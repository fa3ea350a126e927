//! Delta debugging: the algorithm `ddmin` of A. Zeller and R. Hildebrandt, "Simplifying and Isolating Failure-Inducing
//! Input", IEEE Transactions on Software Engineering 28(2), 2002, section 3.

/// A subset of `items` for which `test` holds, and of which no single item can be left out. `test` must hold for all of
/// `items`; whatever it said last for a subset counts.
///
/// # Errors
/// The first of `test`, which ends the search.
pub(super) fn ddmin<E>(items: Vec<usize>, test: &mut dyn FnMut(&[usize]) -> Result<bool, E>) -> Result<Vec<usize>, E> {
    let mut items = items;
    let mut parts = 2;
    while items.len() > 1 {
        parts = parts.min(items.len());
        let bounds: Vec<(usize, usize)> =
            (0..parts).map(|part| (part * items.len() / parts, (part + 1) * items.len() / parts)).collect();
        let mut reduced = None;
        // The end of a capture explains what is seen there more often than its beginning.
        for &(from, to) in bounds.iter().rev() {
            if test(&items[from..to])? {
                reduced = Some((items[from..to].to_vec(), 2));
                break;
            }
        }
        // With two parts, what one leaves out is the other.
        if reduced.is_none() && parts > 2 {
            for &(from, to) in &bounds {
                let rest = [&items[..from], &items[to..]].concat();
                if test(&rest)? {
                    reduced = Some((rest, (parts - 1).max(2)));
                    break;
                }
            }
        }
        match reduced {
            Some((rest, next)) => (items, parts) = (rest, next),
            None if parts == items.len() => return Ok(items),
            None => parts *= 2,
        }
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn minimal(of: usize, needed: &[usize]) -> (Vec<usize>, usize) {
        let mut tests = 0;
        let found = ddmin((0..of).collect(), &mut |subset| {
            tests += 1;
            Ok::<_, Infallible>(needed.iter().all(|one| subset.contains(one)))
        });
        (found.unwrap(), tests)
    }

    #[test]
    fn exactly_what_is_needed_is_left() {
        for needed in [&[0][..], &[9_999], &[5_000], &[1, 2], &[0, 9_999], &[17, 4_000, 4_001, 9_000]] {
            let (found, tests) = minimal(10_000, needed);
            assert_eq!(found, needed);
            // A single one takes at most two tests for each halving of 10,000.
            assert!(needed.len() > 1 || tests <= 28, "{tests}");
        }
        assert_eq!(minimal(1, &[0]), (vec![0], 0));
        assert_eq!(minimal(8, &[0, 1, 2, 3, 4, 5, 6, 7]).0.len(), 8);
    }

    #[test]
    fn what_is_left_has_no_item_that_can_go() {
        // At least five of the even ones: many answers, each of five.
        let test = |subset: &[usize]| subset.iter().filter(|one| *one % 2 == 0).count() >= 5;
        let found = ddmin((0..1000).collect(), &mut |subset| Ok::<_, Infallible>(test(subset))).unwrap();
        assert_eq!(found.len(), 5);
        assert!(test(&found));
    }

    #[test]
    fn an_error_ends_the_search() {
        assert_eq!(ddmin((0..10).collect(), &mut |_| Err("stop")), Err("stop"));
    }
}
