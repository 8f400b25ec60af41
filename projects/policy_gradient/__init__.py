"""Policy gradient methods: REINFORCE and PPO on any gymnasium environment."""
