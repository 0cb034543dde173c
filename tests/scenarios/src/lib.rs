//! Behaviours as data: worlds and the plans they must give.
