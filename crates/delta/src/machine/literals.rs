//! The states of literals: `Literal` and `Match`.

use super::{At, BUFFER_BYTES, Fault, MATCH_STEP_BYTES, Machine};
use crate::{
    Images,
    coder::{Part, Side, Token},
    literal::PEEK_BYTES,
    model::{FLAG_NAMED, MATCH_BYTES_MAX, Number},
    recent::Begun,
    refs::Kind,
};

impl<const SLOTS: usize, const BLOCKS: usize, const PAGES: usize> Machine<SLOTS, BLOCKS, PAGES> {
    /// What was changed is often like what was there: the distance to it is the first to be tried.
    pub(super) fn start_literals(&mut self, at: u32) {
        let distance = (self.old_bytes + at).wrapping_sub(self.old_cursor);
        if self.old_bytes > 0 && self.literal.repeats[0] != distance {
            let known = self.literal.repeats.iter().position(|it| *it == distance);
            self.literal.used(distance, known);
        }
        self.literal.after_match = false;
    }

    /// One literal, or the head of a match; or the start of the copy that follows.
    pub(super) fn literal<S: Side, I: Images>(
        &mut self,
        side: &mut S,
        images: &mut I,
    ) -> Result<(), Fault<I::Error>> {
        let at = self.new_at();
        if at >= self.literal_end {
            return self.start_copy(images);
        }
        let left = self.literal_end - at;
        let wish = side.token(at, left, &self.literal.repeats);
        side.part(Part::Match, at);
        if self.model.is_match(side, wish.match_bytes > 0) {
            return self.match_head(side, wish, left);
        }
        if let Some(address) = self.follow.enter(&self.new_layout, at)
            && let Some(begun) = Begun::of(&self.follow.phase, &self.new_layout, address)
            && begun.more <= left
            && let Some(bytes) = self.named(side, &begun, at)?
        {
            self.emit(&bytes[begun.count as usize..(begun.count + begun.more) as usize]);
            self.literal.after_match = false;
            return Ok(());
        }
        side.part(Part::Literal, at);
        let guess = self.guess(images)?;
        let wanted = side.byte(at);
        let byte = self.model.literal(side, &self.follow.phase, guess, wanted);
        self.emit(&[byte]);
        self.literal.after_match = false;
        Ok(())
    }

    /// A call or load that has begun may be one of the last targets: the whole of it, if so.
    fn named<E>(
        &mut self,
        side: &mut impl Side,
        begun: &Begun,
        at: u32,
    ) -> Result<Option<[u8; 4]>, Fault<E>> {
        side.part(Part::Named, at);
        let layout = &self.new_layout;
        let flag = FLAG_NAMED + self.follow.recent.flag(begun.kind);
        let wish = side.named(&self.follow.recent, layout, begun, at);
        let is_named = self.model.flag(side, flag, wish.is_some());
        self.follow.recent.was_named(begun.kind, is_named);
        if !is_named {
            return Ok(None);
        }
        let wish = wish.unwrap_or(0);
        let bytes = match begun.kind {
            Kind::Call => {
                let place = self.model.number(side, Number::CallPlace, wish as u32);
                self.follow.recent.calls(layout, begun).nth(place as usize)
            }
            _ => {
                let words = self.model.signed(side, Number::LoadWords, wish);
                self.follow.recent.load(layout, begun, words)
            }
        };
        let none = Fault::Damaged("a call or load leads to nowhere");
        bytes.map(Some).ok_or(none)
    }

    fn match_head<E>(
        &mut self,
        side: &mut impl Side,
        wish: Token,
        left: u32,
    ) -> Result<(), Fault<E>> {
        let known = |it: &u32| *it == wish.distance && wish.distance > 0;
        let place = self.literal.repeats.iter().position(known);
        let place = self.model.repeat(side, place);
        let bytes = self
            .model
            .match_bytes(side, place.is_some(), wish.match_bytes);
        let distance = match place {
            Some(place) => self.literal.repeats[place],
            None => self.model.distance(side, bytes, wish.distance),
        };
        let here = self.old_bytes + self.new_at();
        if distance == 0 || distance > here || bytes > left.min(MATCH_BYTES_MAX) {
            return Err(Fault::Damaged("a match is outside of the images"));
        }
        self.literal.used(distance, place);
        self.literal.match_left = bytes;
        self.at = At::Match;
        Ok(())
    }

    pub(super) fn match_bytes<I: Images>(&mut self, images: &mut I) -> Result<(), Fault<I::Error>> {
        let from = self.old_bytes + self.new_at() - self.literal.repeats[0];
        let room = BUFFER_BYTES - self.buffered;
        let wanted = (self.literal.match_left as usize)
            .min(MATCH_STEP_BYTES)
            .min(room);
        let mut bytes = [0; MATCH_STEP_BYTES];
        let count = self.read(images, from, &mut bytes[..wanted])?;
        self.emit(&bytes[..count]);
        self.literal.match_left -= count as u32;
        if self.literal.match_left == 0 {
            self.literal.after_match = true;
            self.at = At::Literal;
        }
        Ok(())
    }

    /// Reads from the old image followed by what there is of the new one; gives at least one byte
    /// and stops where the source ends.
    fn read<I: Images>(
        &self,
        images: &mut I,
        from: u32,
        to: &mut [u8],
    ) -> Result<usize, Fault<I::Error>> {
        let limit = |end: u32, at: u32, to: &[u8]| to.len().min((end - at) as usize);
        let Some(new) = from.checked_sub(self.old_bytes) else {
            let count = limit(self.old_bytes, from, to);
            images
                .read_old(from, &mut to[..count])
                .map_err(Fault::Read)?;
            return Ok(count);
        };
        if new < self.chunk_at {
            let count = limit(self.chunk_at, new, to);
            images
                .read_new(new, &mut to[..count])
                .map_err(Fault::Read)?;
            return Ok(count);
        }
        let start = (new - self.chunk_at) as usize;
        let count = limit(self.new_at(), new, to);
        to[..count].copy_from_slice(&self.buffer[start..start + count]);
        Ok(count)
    }

    /// The byte at the last distance.
    fn guess<I: Images>(&mut self, images: &mut I) -> Result<Option<(u8, bool)>, Fault<I::Error>> {
        let (here, distance) = (self.old_bytes + self.new_at(), self.literal.repeats[0]);
        if distance == 0 || distance > here {
            return Ok(None);
        }
        let at = here - distance;
        let is_buffered = at >= self.old_bytes + self.chunk_at;
        let byte = match self.literal.peeked(at).filter(|_| !is_buffered) {
            Some(byte) => byte,
            None => {
                let mut bytes = [0; PEEK_BYTES];
                let count = self.read(images, at, &mut bytes)?;
                if !is_buffered {
                    self.literal.peek(at, &bytes[..count]);
                }
                bytes[0]
            }
        };
        Ok(Some((byte, self.literal.after_match)))
    }
}
