//! The real binary, from the outside.
