package infer

// OnDevice makes an engine keep keys and values as it does on a GPU.
func OnDevice(o Options) Options {
	o.deviceCache = true
	return o
}
