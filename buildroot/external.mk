# The external tree's own make rules.
#
# Job: pull in the packages, and hold the kernel that was configured against the fragments that it was configured
# from. Place: read by Buildroot after all of its own packages. A crash leaves nothing behind.

include $(sort $(wildcard $(BR2_EXTERNAL_POSTERN_PATH)/package/*/*.mk))
