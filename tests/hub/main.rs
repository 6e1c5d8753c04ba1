//! Models, SAEs and data sets of the Hub, and SAEs to it: the program, against a Hub on loopback.

mod client;
mod datasets;
mod download;
mod names;
mod upload;
