"""Host-resident weights and optimizer state: on the device only while they are at work."""
