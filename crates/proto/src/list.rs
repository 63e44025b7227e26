//! A CBOR array of bounded length that lives on the stack.

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

/// At most `N` values; on the wire a definite CBOR array. A longer array is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<T, const N: usize>(heapless::Vec<T, N>);

impl<T, const N: usize> List<T, N> {
    /// The empty list.
    pub const fn new() -> Self {
        Self(heapless::Vec::new())
    }

    /// Adds `value`; gives it back where the list is full.
    pub fn push(&mut self, value: T) -> Result<(), T> {
        self.0.push(value)
    }
}

impl<T, const N: usize> Default for List<T, N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, const N: usize> core::ops::Deref for List<T, N> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<C, T: Encode<C>, const N: usize> Encode<C> for List<T, N> {
    fn encode<W: encode::Write>(
        &self,
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        e.array(self.len() as u64)?;
        self.iter().try_for_each(|value| value.encode(e, ctx))
    }
}

impl<'b, C, T: Decode<'b, C>, const N: usize> Decode<'b, C> for List<T, N> {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, decode::Error> {
        let Some(count) = d.array()? else {
            return Err(decode::Error::message("arrays have a definite length"));
        };
        let mut list = Self::new();
        for _ in 0..count {
            if list.push(T::decode(d, ctx)?).is_err() {
                return Err(decode::Error::message(
                    "array longer than the protocol allows",
                ));
            }
        }
        Ok(list)
    }
}
