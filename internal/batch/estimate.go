package batch

// DollarsPerNeuron is the list price beyond the free allocation of a day.
const DollarsPerNeuron = 0.011 / 1000
