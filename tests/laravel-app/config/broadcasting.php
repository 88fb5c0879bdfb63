<?php

return [
    // BROADCAST_DRIVER up to Laravel 10, BROADCAST_CONNECTION since 11.
    'default' => env('BROADCAST_DRIVER', env('BROADCAST_CONNECTION', 'null')),

    'connections' => [
        'redis' => ['driver' => 'redis', 'connection' => 'broadcasting'],

        // Events through Redis, signatures as the pusher driver makes them.
        'signed-redis' => [
            'driver' => 'signed-redis',
            'connection' => 'broadcasting',
            'key' => env('PUSHER_APP_KEY'),
            'secret' => env('PUSHER_APP_SECRET'),
        ],

        'null' => ['driver' => 'null'],
    ],
];
