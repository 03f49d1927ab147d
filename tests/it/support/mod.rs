//! Models, folders and interpreters that several tests begin with.

pub mod edited;
pub mod made_up;
pub mod plain_llama;
pub mod program;
pub mod python;
pub mod random;
pub mod small;
pub mod tensors;
pub mod tiny;
pub mod tools;
