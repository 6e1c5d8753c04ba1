//! Files: tensors, SAEs in SAELens' layout, and writing that never leaves half a file.

pub mod arrays;
pub mod saelens;
pub mod tensor_stream;
pub mod tensors;
pub mod write;
