package kernel

// SetStages has f called at every stage of what the kernel does from now on.
func SetStages(k *Kernel, f func(stage string)) {
	k.stages, k.host.stages, k.settings.stages, k.kept.stages = f, f, f, f
}
