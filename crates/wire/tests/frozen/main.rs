//! The frozen samples in `tests/fixtures/v<N>/`, held against the types and against the schemas.
#![cfg(test)]

mod broken;
mod read_back;
mod sample;
#[cfg(feature = "schema")]
mod schemas;
