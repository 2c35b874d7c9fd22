package telemetry

// Version is the program's version, set by the linker: -ldflags "-X .../libs/telemetry.Version=v1.2.3".
var Version = "dev"
