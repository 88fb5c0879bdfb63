<?php

namespace App\Broadcasting;

use Illuminate\Broadcasting\Broadcasters\RedisBroadcaster;
use Symfony\Component\HttpKernel\Exception\AccessDeniedHttpException;

/**
 * Laravel's redis broadcaster, whose yes at /broadcasting/auth is signed as the pusher broadcaster's is.
 * Events keep going through Redis; pusher-js gets the signature that it wants for private and presence
 * channels. For Laravel 8 and later; the Pusher SDK is not needed.
 *
 * 1. Copy this file to app/Broadcasting/SignedRedisBroadcaster.php.
 * 2. In boot() of app/Providers/AppServiceProvider.php:
 *
 *        \Illuminate\Support\Facades\Broadcast::extend('signed-redis', function ($app, $config) {
 *            return new \App\Broadcasting\SignedRedisBroadcaster($app, $config);
 *        });
 *
 * 3. In config/broadcasting.php, under "connections", with the key and secret that `clients` of
 *    laravel-echo-server.json has, and the Redis connection that the redis driver used:
 *
 *        'signed-redis' => [
 *            'driver' => 'signed-redis',
 *            'connection' => 'default',
 *            'key' => env('PUSHER_APP_KEY'),
 *            'secret' => env('PUSHER_APP_SECRET'),
 *        ],
 *
 * 4. In .env: BROADCAST_CONNECTION=signed-redis (BROADCAST_DRIVER up to Laravel 10).
 */
class SignedRedisBroadcaster extends RedisBroadcaster
{
    private $config;

    public function __construct($app, array $config)
    {
        parent::__construct($app['redis'], $config['connection'] ?? null, $app['config']->get('database.redis.options.prefix', ''));

        $this->config = $config;
    }

    public function validAuthenticationResponse($request, $result)
    {
        $signed = [(string) $request->socket_id, (string) $request->channel_name];
        $answer = [];

        // What is signed is joined by colons, so neither part may bring one along.
        if (! preg_match('/^\d+\.\d+$/D', $signed[0]) || ! preg_match('/^(private|presence)-[\w=@,.;-]+$/D', $signed[1])) {
            throw new AccessDeniedHttpException('The socket_id or the channel_name is not one of Pusher\'s.');
        }

        if (strpos($signed[1], 'presence-') === 0) {
            $member = json_decode(parent::validAuthenticationResponse($request, $result));
            if (! isset($member->channel_data)) {
                throw new AccessDeniedHttpException('The callback of a presence channel has to return the member\'s data.');
            }
            $signed[] = $answer['channel_data'] = json_encode($member->channel_data);
        }

        return ['auth' => $this->config['key'].':'.hash_hmac('sha256', implode(':', $signed), $this->config['secret'])] + $answer;
    }
}
