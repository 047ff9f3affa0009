/// (being written)
pub struct SimHypervisor; //
