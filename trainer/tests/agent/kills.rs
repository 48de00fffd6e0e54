//! The real job program under kills.
