//! Hand-made types, real maps, real objects.
