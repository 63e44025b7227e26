//! Finds which runs of the new image are runs of the old one, with a few bytes changed: the method
//! of bsdiff, on a suffix array.

use std::vec::Vec;

/// A copy from the old image and the literals after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Op {
    pub old_at: usize,
    pub copy_bytes: usize,
    pub literal_bytes: usize,
}

/// A match must beat the run that goes on by this many bytes. Fewer make more and smaller copies:
/// of far pairs 3 makes patches 1.5 % smaller than 8, some near pairs are better off with 8.
pub(super) const GAIN_MIN: [usize; 2] = [8, 3];
/// A longer exact match is taken as it is: in long runs of zeros each byte would be searched anew.
const LONG: usize = 256;
/// A copy with fewer bytes that are equal is left to the literals.
const EQUAL_BYTES_MIN: usize = 10;
/// Bytes that a search compares at most.
const COMPARE_BYTES: usize = 4096;

/// The ops that make `new`, in order.
pub(super) fn find(old: &[u8], new: &[u8], gain_min: usize) -> Vec<Op> {
    if old.is_empty() {
        return Vec::from([Op {
            old_at: 0,
            copy_bytes: 0,
            literal_bytes: new.len(),
        }]);
    }
    let (_, order) = divsufsort::sort(old).into_parts();
    Matcher {
        old,
        new,
        order,
        gain_min,
        new_at: 0,
        old_at: 0,
        ops: Vec::new(),
    }
    .run()
}

struct Matcher<'a> {
    old: &'a [u8],
    new: &'a [u8],
    /// The suffixes of the old image, sorted.
    order: Vec<i32>,
    gain_min: usize,
    /// Where the run that goes on has started.
    new_at: usize,
    old_at: usize,
    ops: Vec<Op>,
}

impl Matcher<'_> {
    fn run(mut self) -> Vec<Op> {
        let (mut scan, mut bytes, mut at) = (0, 0, 0);
        let mut shift = 0_isize;
        while scan < self.new.len() {
            let mut kept = 0;
            scan += bytes;
            let mut counted = scan;
            while scan < self.new.len() {
                (bytes, at) = self.longest(scan);
                while counted < scan + bytes {
                    kept += usize::from(self.goes_on(counted, shift));
                    counted += 1;
                }
                if bytes > LONG && kept + self.gain_min >= bytes {
                    kept = bytes;
                }
                if bytes == kept && bytes != 0 || bytes > kept + self.gain_min {
                    break;
                }
                kept -= usize::from(self.goes_on(scan, shift)).min(kept);
                scan += 1;
                counted = counted.max(scan);
            }
            if bytes != kept || scan == self.new.len() {
                self.end_run(scan, at);
                shift = at as isize - scan as isize;
            }
        }
        self.without_poor()
    }

    /// Whether a byte is the one that the run that goes on would have there.
    fn goes_on(&self, new_at: usize, shift: isize) -> bool {
        let old = new_at.checked_add_signed(shift);
        old.and_then(|at| self.old.get(at)) == self.new.get(new_at)
    }

    /// The longest exact match of what is at `new_at`: its length and its place.
    fn longest(&self, new_at: usize) -> (usize, usize) {
        let wanted = &self.new[new_at..];
        let suffix = |index: usize| &self.old[self.order[index] as usize..];
        let (mut low, mut high) = (0, self.order.len());
        while high - low > 1 {
            let middle = (low + high) / 2;
            let candidate = suffix(middle);
            let count = candidate.len().min(wanted.len()).min(COMPARE_BYTES);
            match candidate[..count] <= wanted[..count] {
                true => low = middle,
                false => high = middle,
            }
        }
        let mut best = (common(suffix(low), wanted), self.order[low] as usize);
        if high < self.order.len() {
            let bytes = common(suffix(high), wanted);
            if bytes > best.0 {
                best = (bytes, self.order[high] as usize);
            }
        }
        best
    }

    /// A new match starts at `scan` and `at`: ends the run before it where the two meet best.
    fn end_run(&mut self, scan: usize, at: usize) {
        let mut forward = self.forward(scan);
        let mut backward = match scan < self.new.len() {
            true => self.backward(scan, at),
            false => 0,
        };
        let (end, start) = (self.new_at + forward, scan - backward);
        if end > start {
            let split = self.split(end - start, forward, at - backward, start);
            forward = forward - (end - start) + split;
            backward -= split;
        }
        self.ops.push(Op {
            old_at: self.old_at,
            copy_bytes: forward,
            literal_bytes: scan - backward - (self.new_at + forward),
        });
        self.new_at = scan - backward;
        self.old_at = at - backward;
    }

    /// Without the copies that have so little in common that matches among the literals do as well.
    fn without_poor(self) -> Vec<Op> {
        let mut all: Vec<Op> = Vec::new();
        let mut at = 0;
        for op in self.ops {
            let copied = &self.new[at..at + op.copy_bytes];
            let pairs = self.old[op.old_at.min(self.old.len())..].iter().zip(copied);
            let equal = pairs.filter(|(old, new)| old == new).count();
            at += op.copy_bytes + op.literal_bytes;
            match all.last_mut() {
                Some(last) if equal < EQUAL_BYTES_MIN => {
                    last.literal_bytes += op.copy_bytes + op.literal_bytes;
                }
                _ => all.push(op),
            }
        }
        all
    }

    /// How far the run that goes on is worth it: more than half of its bytes are equal.
    fn forward(&self, scan: usize) -> usize {
        let old = &self.old[self.old_at.min(self.old.len())..];
        let new = &self.new[self.new_at..scan];
        farthest(old.iter().zip(new).map(|(old, new)| old == new))
    }

    fn backward(&self, scan: usize, at: usize) -> usize {
        let old = self.old[..at].iter().rev();
        let new = self.new[self.new_at..scan].iter().rev();
        farthest(old.zip(new).map(|(old, new)| old == new))
    }

    /// Where in an overlap of `bytes` bytes the earlier run ends and the later one starts.
    fn split(&self, bytes: usize, forward: usize, later: usize, start: usize) -> usize {
        let earlier = self.old_at + forward - bytes;
        let (mut score, mut best, mut split) = (0_isize, 0, 0);
        for index in 0..bytes {
            let byte = self.new[start + index];
            score += isize::from(byte == self.old[earlier + index]);
            score -= isize::from(byte == self.old[later + index]);
            if score > best {
                (best, split) = (score, index + 1);
            }
        }
        split
    }
}

/// The length at which equal bytes outweigh others the most.
fn farthest(equal: impl Iterator<Item = bool>) -> usize {
    let (mut score, mut best, mut length) = (0_isize, 0, 0);
    for (index, is_equal) in equal.enumerate() {
        score += if is_equal { 1 } else { -1 };
        if score > best {
            (best, length) = (score, index + 1);
        }
    }
    length
}

/// How many bytes are the same at the start of both.
pub(super) fn common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
