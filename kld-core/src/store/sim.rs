/// (being written)
pub struct SimStore; //
