//! Both images with absolute labels in place of references, so that code that only moved looks
//! the same. Lengths stay: only what is compared is changed.

use std::vec::Vec;

use super::{
    divide::Moves,
    images::{Pair, walk},
    matcher::Op,
};
use crate::refs::{self, Kind};

/// The old image with its references as they would be in the new one, and the new image.
pub(super) fn images(pair: &Pair, ops: &[Op]) -> (Vec<u8>, Vec<u8>) {
    let moves = Moves::of(ops);
    let project = |address: u32| {
        let moved = pair
            .old_layout
            .offset(address)
            .and_then(|at| moves.moved(at));
        let address_near = |at| pair.new_layout.address_near(at);
        moved.and_then(address_near).unwrap_or(address)
    };
    let mut old = pair.old.to_vec();
    walk(pair.old, &pair.old_layout, |at, unit| {
        if !matches!(unit.kind, Kind::None | Kind::Branch) {
            let bytes = &mut old[at..at + usize::from(unit.bytes)];
            refs::label(bytes, unit, project(unit.target), &pair.old_layout);
        }
    });
    let mut new = pair.new.to_vec();
    walk(pair.new, &pair.new_layout, |at, unit| {
        if !matches!(unit.kind, Kind::None | Kind::Branch) {
            let bytes = &mut new[at..at + usize::from(unit.bytes)];
            refs::label(bytes, unit, unit.target, &pair.new_layout);
        }
    });
    (old, new)
}
