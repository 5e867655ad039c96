// SPDX-License-Identifier: GPL-2.0
/*
 * Tells a Raspberry Pi's firmware to read tryboot.txt at the next restart, once.
 *
 * Raspberry Pi's own kernel does this for `reboot "0 tryboot"`, the upstream kernel that Debian
 * builds does not (raspberrypi/rpi-eeprom#716). Loading the module sets the flag.
 */
#include <linux/module.h>
#include <linux/of.h>
#include <soc/bcm2835/raspberrypi-firmware.h>

/* Not in every version of the header. */
#define SET_REBOOT_FLAGS 0x00038064
#define TRYBOOT 1

static int __init edge_tryboot_init(void)
{
	struct device_node *node;
	struct rpi_firmware *firmware;
	u32 flags = TRYBOOT;
	int error;

	node = of_find_compatible_node(NULL, NULL, "raspberrypi,bcm2835-firmware");
	if (!node)
		return -ENODEV;
	firmware = rpi_firmware_get(node);
	of_node_put(node);
	if (!firmware)
		return -EPROBE_DEFER;
	error = rpi_firmware_property(firmware, SET_REBOOT_FLAGS, &flags, sizeof(flags));
	rpi_firmware_put(firmware);
	if (error)
		pr_err("edge_tryboot: the firmware refuses: %d\n", error);
	return error;
}

/* So that it can be unloaded, and loaded for another try. */
static void __exit edge_tryboot_exit(void)
{
}

module_init(edge_tryboot_init);
module_exit(edge_tryboot_exit);
MODULE_DESCRIPTION("One try of another system at the next restart");
MODULE_LICENSE("GPL");
