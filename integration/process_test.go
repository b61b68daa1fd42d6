package integration_test

const roleEnv = "WEIR_TEST_ROLE"

func playRole(role string) int { return 2 }
