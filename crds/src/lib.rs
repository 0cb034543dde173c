//! API types of the objects users write, and their lowering to the engine's world.
